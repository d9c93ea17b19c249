"""What the pages have in common: elements, the frame, bars, tables, the list of settings, the style."""
