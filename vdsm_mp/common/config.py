# SPDX-License-Identifier: Apache-2.0
"""Reads vdsm.conf and its drop-ins into the frozen structs of `options.py`. Once, by the master, before it forks.

INI with `%(name)s` interpolation. Order: built-in defaults, /etc/vdsm/vdsm.conf, then every `*.conf` of the drop-in
directories sorted together by base name. A later value wins. A name nobody knows, or a value that does not fit, is
an error with file and line; an option of VDSM's that means nothing here is a note for the log.
"""

import configparser
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from vdsm_mp.common import files, options
from vdsm_mp.common.options import ACCEPTED, Config, Section

MAIN_FILE = Path("/etc/vdsm/vdsm.conf")
DROP_INS = (Path("/usr/lib/vdsm/vdsm.conf.d"), Path("/run/vdsm/vdsm.conf.d"), Path("/etc/vdsm/vdsm.conf.d"))
#: Names another main file, for tools and tests; its drop-ins are in FILE.d beside it.
ENVIRONMENT = "VDSM_MP_CONFIG"


class ConfigError(Exception):
    """The sentence names file and line; one line for each fault. usable: what is left without the faulty options."""

    def __init__(self, faults: str, usable: Config | None = None) -> None:
        super().__init__(faults)
        self.usable = usable or Config()


class Loaded(msgspec.Struct, frozen=True):
    """config: what is in force. notes: for the log. origin: {(section, option): "file:line"} of what files set."""

    config: Config
    notes: tuple[str, ...]
    origin: Mapping[tuple[str, str], str]


def load(main_file: Path | None = None) -> Loaded:
    """Raises ConfigError. A default main file that is absent is fine; a named one must be there."""
    if main_file is None and os.environ.get(ENVIRONMENT):
        main_file = Path(os.environ[ENVIRONMENT])
    if main_file is None:
        paths = [MAIN_FILE] if MAIN_FILE.exists() else []
        folders: Iterable[Path] = DROP_INS
    else:
        paths, folders = [main_file], [main_file.with_name(main_file.name + ".d")]
    try:
        drop_ins = [path for folder in folders if folder.is_dir() for path in folder.glob("*.conf")]
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from error
    return _merge([*paths, *sorted(drop_ins, key=lambda path: path.name)])


def load_usable() -> tuple[Config, list[str]]:
    """(configuration, its faults): for tools that must reach a running agent, whatever was written since it started."""
    try:
        return load().config, []
    except ConfigError as error:
        return error.usable, str(error).splitlines()


def main_file() -> Path:
    """Which main file a start without other wishes would read."""
    return Path(os.environ.get(ENVIRONMENT) or MAIN_FILE)


def _merge(paths: list[Path]) -> Loaded:
    parser = configparser.ConfigParser(strict=True)
    parser.optionxform = str.lower  # type: ignore[assignment,method-assign]
    origin: dict[tuple[str, str], str] = {}
    faults: list[str] = []
    for path in paths:
        try:
            text = files.read_text(path)
            # On its own first: a parser that has met a fault is of no use afterwards.
            configparser.ConfigParser(strict=True).read_string(text, source=str(path))
            parser.read_string(text, source=str(path))
        except OSError as error:
            faults.append(f"{path}: {error.strerror or error}")
            continue
        except configparser.Error as error:
            faults.append(_unread(path, error))
            continue
        origin.update(_lines(path, text))
    known = {field.encode_name: field.type for field in msgspec.structs.fields(Config)}
    sections: dict[str, Section] = {}
    ignored: list[str] = []
    for name in [*known, *(s for s in parser.sections() if s not in known)]:
        if parser.has_section(name):
            _take_section(name, known.get(name), parser, origin, sections, ignored, faults)
    merged = msgspec.structs.replace(Config(), **sections)
    if faults:
        raise ConfigError("\n".join(faults), merged)
    notes = (f"options without a meaning here, ignored: {', '.join(ignored)}",) if ignored else ()
    return Loaded(merged, notes, origin)


def _unread(path: Path, error: configparser.Error) -> str:
    """Why a file is no INI file."""
    match error:
        case configparser.MissingSectionHeaderError():
            return f"{path}:{error.lineno}: {error.line.strip()!r} stands before the first [section]"
        case configparser.DuplicateSectionError():
            return f"{path}:{error.lineno}: section [{error.section}] is there already"
        case configparser.DuplicateOptionError():
            return f"{path}:{error.lineno}: [{error.section}] {error.option} is set already"
        case configparser.ParsingError():
            number, line = error.errors[0]
            shown = line.replace("\\n", "")
            return f"{path}:{number}: {shown} is neither a [section] nor option = value"
    return f"{path}: {' '.join(str(error).split())}"


def _take_section(
    name: str,
    kind: Any,
    parser: configparser.ConfigParser,
    origin: Mapping[tuple[str, str], str],
    sections: dict[str, Section],
    ignored: list[str],
    faults: list[str],
) -> None:
    fields = {f.encode_name: f for f in msgspec.structs.fields(kind)} if kind is not None else {}
    accepted = ACCEPTED.get(name, frozenset())
    values: dict[str, Any] = {}
    for option in parser.options(name):
        where = origin.get((name, option), name)
        if option not in fields:
            # An option may carry a device's name behind a dot: ethtool_opts.eth0.
            if option in accepted or option.partition(".")[0] in accepted:
                ignored.append(f"[{name}] {option}")
            elif option not in parser.defaults():
                faults.append(f"{where}: [{name}] has no option {option}")
            continue
        try:
            values[option] = _value(parser.get(name, option), fields[option].type)
        except (configparser.Error, msgspec.ValidationError) as error:
            faults.append(f"{where}: [{name}] {option}: {' '.join(str(error).split())}")
    if kind is not None:
        sections[name] = kind(**values)
    elif not accepted and not parser.options(name):
        faults.append(f"there is no section [{name}]")


def _value(text: str, kind: Any) -> Any:
    """`yes`, `on` and the like are VDSM's words for true as well."""
    if kind is bool:
        word = text.strip().lower()
        if word not in configparser.ConfigParser.BOOLEAN_STATES:
            raise msgspec.ValidationError(f"{text!r} is neither true nor false")
        return configparser.ConfigParser.BOOLEAN_STATES[word]
    return msgspec.convert(text.strip(), kind, strict=False)


def _lines(path: Path, text: str) -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\[([^]]+)\]", line):
            section = header[1]
        elif option := re.match(r"([^\s#;:=][^:=]*?)\s*[:=]", line):
            found[section, option[1].lower()] = f"{path}:{number}"
    return found


def digest(config: Config) -> str:
    """Tells two configurations apart."""
    return hashlib.blake2b(msgspec.json.encode(config), digest_size=8).hexdigest()


class Row(msgspec.Struct, frozen=True):
    """One option that is in force. origin: "file:line", empty = the default."""

    section: str
    option: str
    value: Any
    origin: str


def rows(loaded: Loaded) -> list[Row]:
    """Every option, in the order of the manual."""
    return [
        Row(field.encode_name, option.encode_name, getattr(section, option.name), loaded.origin.get(key, ""))
        for field in msgspec.structs.fields(Config)
        for section in (getattr(loaded.config, field.name),)
        for option in msgspec.structs.fields(section)
        for key in ((field.encode_name, option.encode_name),)
    ]


def as_ini(found: Iterable[Row]) -> str:
    """Rows as an INI file; what a file set says where."""
    parts: list[str] = []
    section = None
    for row in found:
        if row.section != section:
            parts += [*([""] if section else []), f"[{row.section}]"]
            section = row.section
        line = f"{row.option} = {_shown(row.value)}".rstrip()
        parts.append(line + (f"    # {row.origin}" if row.origin else ""))
    return "\n".join([*parts, ""])


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def manual() -> str:
    """`etc/vdsm.conf`: every option with its default, commented out, and the comments of `options.py` above it."""
    source = Path(options.__file__).read_text(encoding="utf-8")
    parts = [
        "# Configuration of vdsm-mp. Every option with its default; remove the # to change one.",
        "# Better: put what you change into a file of your own in /etc/vdsm/vdsm.conf.d, read after this one.",
        "# Options of VDSM that are not listed are accepted and ignored; unknown ones stop the start.",
        "",
    ]
    for field in msgspec.structs.fields(Config):
        section: Section = getattr(Config(), field.name)
        head = (type(section).__doc__ or "").strip().partition("\n")[0]
        parts += [f"# {head}", f"[{field.encode_name}]", ""]
        comments = _comments(source, type(section).__name__)
        for option in msgspec.structs.fields(section):
            parts += [f"# {line}" for line in comments.get(option.name, ())]
            parts += [f"#{option.encode_name} = {_shown(getattr(section, option.name))}".rstrip(), ""]
    return "\n".join(parts)


def _comments(source: str, class_name: str) -> dict[str, list[str]]:
    """{option: its comment lines} of one section's class."""
    body = source.partition(f"class {class_name}(")[2].partition("\nclass ")[0]
    found: dict[str, list[str]] = {}
    pending: list[str] = []
    for line in body.splitlines()[1:]:
        if comment := re.match(r"    # ?(.*)", line):
            pending.append(comment[1])
        elif option := re.match(r"    (\w+):", line):
            found[option[1]], pending = pending, []
    return found
