"""YAML that people wrote, and that may have come with somebody's data: plain values of a bounded size, or a reason why not.

The safe loader runs no code, but a kilobyte of aliases that repeat one another stands for more values than memory holds,
and a deep nesting or an odd tag ends it with errors of its own. Both are known before a value is built.
"""

from __future__ import annotations

MOST_BYTES = 1_000_000
MOST_VALUES = 100_000
MOST_DEEP = 40
MOST_PLAIN = 1_000


def read_plain(content: bytes) -> object:
    """Read one YAML document; raises ValueError, in one line, for what is none or too large, too deep or too often repeated."""
    import yaml

    if len(content) > MOST_BYTES:
        raise ValueError(f"it has {len(content):,} bytes, more than {MOST_BYTES:,}")
    try:
        _check_size(content)
        return yaml.safe_load(content)
    except yaml.MarkedYAMLError as error:
        where = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise ValueError(where + " ".join(str(error.problem or error.context).split())) from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except ValueError:
        raise
    except Exception as error:  # the loader's builders of numbers and dates let out whatever goes wrong in them
        raise ValueError(f"a value is none of its type ({type(error).__name__})") from error


def _check_size(content: bytes) -> None:
    """Count values as if every alias were written out; raises ValueError beyond the limits, YAMLError for what is no YAML."""
    import yaml

    open_parts: list[tuple[str | None, int]] = []
    """Anchor of each part that is open, and how many values there were before it."""
    sizes: dict[str, int] = {}
    count = 0
    for event in yaml.parse(content, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_parts):
                raise ValueError(f"*{event.anchor} stands within what it names")
            count += sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
            if event.implicit[0] and len(event.value) > MOST_PLAIN:  # could be a number that takes minutes to write out
                raise ValueError(f"a word of {len(event.value):,} characters without quotes")
        elif isinstance(event, yaml.CollectionStartEvent):
            open_parts.append((event.anchor, count))
            count += 1
            if len(open_parts) > MOST_DEEP:
                raise ValueError(f"it is nested more than {MOST_DEEP} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_parts.pop()
            if anchor is not None:
                sizes[anchor] = count - before
        if count > MOST_VALUES:
            raise ValueError(f"it stands for more than {MOST_VALUES:,} values")
