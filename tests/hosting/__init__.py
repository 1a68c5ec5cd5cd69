"""Tests of views and files as consumers."""
