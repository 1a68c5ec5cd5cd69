"""The pages of docs/deploy/, executed."""
