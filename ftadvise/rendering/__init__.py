"""How answers look in a terminal: one file per view, each a function from data to a rich renderable. Sentences are in texts.yaml."""
