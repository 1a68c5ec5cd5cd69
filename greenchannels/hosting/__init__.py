"""Other people's code as consumers: views, and files."""
