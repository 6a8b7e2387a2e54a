"""What no agent gets to see unless it is named: keys, tokens, sessions of browsers; in files and in the environment.

Rules: a list of well-known places, and of names. It is a second line: the first is that nothing of the home directory
is granted at all. Values in, values out, but for the walk that looks for `.env` files.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .bounded_walk import BoundedWalk

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["SECRETS", "covered_secrets", "env_files", "is_secret_variable"]

SECRETS = (
    *(".ssh", ".gnupg", ".netrc", ".git-credentials", ".config/git/credentials", ".config/gh", ".config/hub"),
    *(".aws", ".azure", ".config/gcloud", ".kube", ".docker/config.json", ".config/containers/auth.json"),
    *(".config/rclone", ".config/doctl", ".config/heroku", ".oci", ".terraform.d", ".vault-token", ".config/sops"),
    *(".npmrc", ".yarnrc.yml", ".pypirc", ".cargo/credentials", ".cargo/credentials.toml", ".gem/credentials"),
    *(".m2/settings.xml", ".gradle/gradle.properties", ".config/pip", ".composer/auth.json"),
    *(".pgpass", ".my.cnf", ".config/op", ".password-store", ".local/share/keyrings", ".local/share/kwalletd"),
    *(".config/keepassxc", ".config/Bitwarden", ".config/1Password", ".bash_history", ".zsh_history"),
    *(".mozilla", ".thunderbird", ".config/google-chrome", ".config/chromium", ".config/BraveSoftware"),
    *(".config/microsoft-edge", ".config/vivaldi", ".config/opera", "snap/firefox", "snap/chromium"),
    *(".var/app/org.mozilla.firefox", ".var/app/com.google.Chrome", ".var/app/org.chromium.Chromium"),
)
"""Below the home directory."""
SECRET_ENDINGS = ("_TOKEN", "_KEY", "_SECRET", "_PASSWORD", "_PASSWD", "_PASS", "_CREDENTIALS", "_AUTH", "_PAT", "_DSN")
SECRET_BEGINNINGS = ("AWS_", "AZURE_", "GOOGLE_", "GCP_", "VAULT_", "DOCKER_AUTH")
SECRET_NAMES = frozenset(
    ("TOKEN", "PASSWORD", "SECRET", "API_KEY", "DATABASE_URL", "PGPASSWORD", "SSH_AUTH_SOCK", "GPG_AGENT_INFO")
)
HARMLESS_ENDINGS = (".example", ".sample", ".template", ".dist")


def is_secret_variable(name: str) -> bool:
    """Whether a variable of this name commonly holds a secret."""
    upper = name.upper()
    return upper in SECRET_NAMES or upper.endswith(SECRET_ENDINGS) or upper.startswith(SECRET_BEGINNINGS)


def is_env_file(name: str) -> bool:
    """Whether a file of this name commonly holds a project's secrets."""
    return name == ".env" or (name.startswith(".env.") and not name.endswith(HARMLESS_ENDINGS))


def env_files(top: str) -> tuple[tuple[str, ...], bool]:
    """The `.env` files below this directory, those nearest to it first; whether all of it was looked at."""
    found: list[str] = []
    walk = BoundedWalk([top])
    for entry in walk:
        if entry.is_dir(follow_symlinks=False):
            walk.enter(entry)
        elif is_env_file(entry.name):
            found.append(entry.path)
            walk.count_find()
    return tuple(found), walk.complete


def covered_secrets(home: str, granted: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """The places of SECRETS that lie below one of these paths: (place, that path).

    A place that is granted by its own name, or something in it, was meant and is not among them.
    """
    grants = sorted({os.path.realpath(path) for path in granted})
    found = []
    for name in SECRETS:
        place = f"{home}/{name}"
        real = os.path.realpath(place)
        if any(is_below(grant, real) for grant in grants):
            continue
        above = [grant for grant in grants if is_below(real, grant)]
        if above:
            found.append((place, above[0]))
    return tuple(found)


def is_below(path: str, directory: str) -> bool:
    """Whether the path is the directory, or in it. Both without links."""
    return f"{path.rstrip('/')}/".startswith(f"{directory.rstrip('/')}/")
