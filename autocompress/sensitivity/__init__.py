"""What each group of layers loses at each width of its integers, and recipes of mixed bits."""
