"""Pictures and pages, from what is stored."""
