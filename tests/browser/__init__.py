"""Drives a real Chromium, for the tests of pages."""

from .chromium import Browser, Page, find_chromium

__all__ = ["Browser", "Page", "find_chromium"]
