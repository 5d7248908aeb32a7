"""The application whose models `suite_django` uses."""
