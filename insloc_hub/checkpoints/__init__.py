"""Other people's weights: any known file in, every ecosystem out, each conversion proved."""
