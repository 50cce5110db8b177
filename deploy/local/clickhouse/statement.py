"""Just enough of ClickHouse's SQL to tell an INSERT's text from its data, and to find a FORMAT clause.

A real server's parser does this on the way; the embedded engine wants the parts separately.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOKEN = re.compile(
    r"""
      (?P<skip>   \s+ | --[^\n]* | \#[ !][^\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<quoted> '(?:[^'\\]|\\.|'')*(?:'|\Z) | "(?:[^"\\]|\\.|"")*(?:"|\Z) | `(?:[^`\\]|\\.|``)*(?:`|\Z) )
    | (?P<heredoc> \$(?P<tag>\w*)\$ .*? (?:\$(?P=tag)\$ | \Z) )
    | (?P<word>   [A-Za-z_]\w* )
    | (?P<other>  \d[\w.]* | . )
    """,
    re.VERBOSE | re.DOTALL,
)
_STREAMABLE_WORDS = {"SELECT", "WITH"}
_INSERT_WITHOUT_DATA_FORMAT = {"VALUES", "SELECT", "WITH", "WATCH", "INFILE", "EXPLAIN"}


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str
    start: int
    end: int

    def is_word(self, *words: str) -> bool:
        return self.kind == "word" and self.text.upper() in words


@dataclass(frozen=True, slots=True)
class InsertHead:
    """`sql` is the INSERT without its FORMAT clause; the data, in `format`, begins at `data_start` of the text."""

    sql: str
    format: str
    data_start: int


@dataclass(frozen=True, slots=True)
class Query:
    """A statement without its FORMAT clause, and the format that the clause asked for."""

    sql: str
    format: str | None
    streamable: bool
    changes_session: bool


def insert_head(text: bytes) -> InsertHead | None:
    """Of `INSERT INTO ... FORMAT Name <data>`; None for other statements, also for INSERT with VALUES or SELECT."""
    # latin-1 keeps positions equal to those of the bytes, whatever the data after the head is.
    characters = text.decode("latin-1")
    depth, previous = 0, None
    for position, token in enumerate(_tokens(characters)):
        if position == 0 and not token.is_word("INSERT"):
            return None
        if previous is not None and previous.is_word("FORMAT") and token.kind == "word":
            sql = text[: previous.start].decode().strip()
            return InsertHead(sql, token.text, _data_start(characters, token.end))
        depth += (token.text == "(") - (token.text == ")")
        if depth == 0 and previous is not None and token.is_word(*_INSERT_WITHOUT_DATA_FORMAT):
            return None
        # A column or a table may be called format.
        previous = token if depth == 0 and not (previous is not None and previous.text == ".") else None
    return None


def parse_query(sql: str) -> Query:
    """Find the FORMAT clause (at the end, or before a last SETTINGS) and take it out."""
    tokens = [token for token in _tokens(sql) if token.text != ";"]
    first = tokens[0] if tokens else None
    depth = 0
    clause: tuple[Token, Token] | None = None
    for position, token in enumerate(tokens[:-1]):
        depth += (token.text == "(") - (token.text == ")")
        following = tokens[position + 1]
        if depth == 0 and token.is_word("FORMAT") and following.kind == "word":
            after = tokens[position + 2] if position + 2 < len(tokens) else None
            if after is None or after.is_word("SETTINGS"):
                clause = token, following
    streamable = first is not None and (first.is_word(*_STREAMABLE_WORDS) or first.text == "(")
    session = first is not None and first.is_word("SET", "USE")
    end = tokens[-1].end if tokens else 0
    if clause is None:
        return Query(sql[:end], None, streamable, session)
    keyword, name = clause
    return Query(f"{sql[: keyword.start]} {sql[name.end : end]}".rstrip(), name.text, streamable, session)


def _tokens(sql: str) -> Iterator[Token]:
    for match in _TOKEN.finditer(sql):
        kind = match.lastgroup or "other"
        if match["heredoc"] is not None:
            kind = "quoted"
        if kind != "skip":
            yield Token(kind, match[0], match.start(), match.end())


def _data_start(text: str, position: int) -> int:
    """As the server does: after blanks and one line end."""
    while position < len(text) and text[position] in " \t\f;":
        position += 1
    if text.startswith("\r", position):
        position += 1
    if text.startswith("\n", position):
        position += 1
    return position
