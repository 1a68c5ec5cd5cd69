"""One idea a folder; each is run by the tests."""
