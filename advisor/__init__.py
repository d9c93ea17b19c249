"""What should I do? Rule engine, search over recipes, explanation."""
