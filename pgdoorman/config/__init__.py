"""What the owner wants: frozen settings, and how they are read from a TOML or YAML file.

Owns the one table of keys (`keys`), the value grammars (`kinds`, `units`), reading and merging files (`load`), the
rules that hold between keys (`validate`), what a reload has to do (`changes`), and every text made from the table: the
reference page, the reference file, the rows of SHOW CONFIG, the JSON schema (`reference`, `rows`, `schema`).

Imports only `errors`. Settings are values: nothing in here applies them, opens a socket or keeps a global.

Start with `keys`, then `load.load`, then `settings.Settings.effective`.
"""

from pgdoorman.config.load import DEFAULT_PATH, load, load_text
from pgdoorman.config.settings import PoolSettings, Secret, Settings, UserPoolSettings, UserSettings

__all__ = [
    "DEFAULT_PATH",
    "PoolSettings",
    "Secret",
    "Settings",
    "UserPoolSettings",
    "UserSettings",
    "load",
    "load_text",
]
