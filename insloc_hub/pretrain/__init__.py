"""The loop: one step, many steps, saved and continued."""
