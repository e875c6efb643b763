"""From a request to a committed folder: request → plan → stream → certificate, card and lock."""
