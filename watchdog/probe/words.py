"""What a peer sent, as text that is safe to show."""

from __future__ import annotations

SHOWN_MAX_CHARS = 80


def shown(text: str, max_chars: int = SHOWN_MAX_CHARS) -> str:
    """Without control characters, which could drive a terminal, and cut to length."""
    clean = "".join(character if character.isprintable() else "?" for character in text.strip())
    return clean if len(clean) <= max_chars else clean[: max_chars - 3] + "..."
