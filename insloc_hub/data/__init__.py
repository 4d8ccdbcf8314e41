"""Images in: list them, decode them, keep them, shape them, order them."""
