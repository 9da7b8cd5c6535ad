"""pipelines.yaml as plain data: strict YAML, `extends`, `--set key=value`. pipelines.py knows what the keys mean."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml

MAX_YAML_BYTES = 1_000_000


class RecipeError(ValueError):
    """The recipe, or a value given on the command line, is wrong. Commands print it and exit with 2."""


def read(config: str | Path | None, recipe: str | None, overrides: tuple[str, ...]) -> dict[str, Any]:
    """A recipe merged with what it extends and with the overrides, `name` included; unchecked. Raises RecipeError."""
    path = find(config)
    document = read_yaml(path)
    _only_keys(document, {"default", "recipes"}, str(path))
    recipes = document.get("recipes")
    if not isinstance(recipes, dict) or not recipes:
        raise RecipeError(f"{path}: `recipes:` must hold at least one recipe")
    name = recipe or document.get("default")
    data = _extended(recipes, name, str(path), ())
    for override in overrides:
        _override(data, override)
    return {"name": name, **data}


def find(config: str | Path | None = None) -> Path:
    """--config, else ./pipelines.yaml, else the copy that is installed with the package."""
    if config is not None:
        if not Path(config).is_file():
            raise RecipeError(f"--config {config}: no such file")
        return Path(config)
    here = Path(__file__).resolve().parent
    for path in (Path("pipelines.yaml"), here / "pipelines.yaml", here / "curate" / "pipelines.yaml"):
        if path.is_file():
            return path
    raise RecipeError("no pipelines.yaml here: give one with --config")


class _Loader(yaml.SafeLoader):
    """Safe YAML without aliases (an alias bomb of 342 bytes explodes when walked) and without duplicate keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise RecipeError(f"{mark.name}:{mark.line + 1}: aliases (*name) are not allowed, use `extends:`")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (dict, list)) or key in seen:
                line = key_node.start_mark.line + 1
                raise RecipeError(f"{key_node.start_mark.name}:{line}: key '{key}' is written twice or is no scalar")
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A strict mapping from a YAML file of at most 1 MB. Raises RecipeError."""
    if Path(path).stat().st_size > MAX_YAML_BYTES:
        raise RecipeError(f"{path}: larger than {MAX_YAML_BYTES} bytes, that is no recipe")
    try:
        with open(path, encoding="utf-8") as file:
            document = yaml.load(file, _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not YAML: {error}") from None
    if not isinstance(document, dict):
        raise RecipeError(f"{path}: must be a mapping with `default:` and `recipes:`")
    return document


def _extended(recipes: dict[str, Any], name: Any, where: str, above: tuple[str, ...]) -> dict[str, Any]:
    if name not in recipes:
        raise RecipeError(f"{where}: no recipe '{name}'{suggest(str(name), recipes)}; there are {', '.join(recipes)}")
    if name in above:
        raise RecipeError(f"{where}: recipes.{name} extends itself by way of {' -> '.join(above)}")
    data = dict(recipes[name] or {})
    base = data.pop("extends", None)
    return data if base is None else _merge(_extended(recipes, base, where, (*above, name)), data)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Mappings merge, everything else replaces; `key: null` takes an inherited key away."""
    merged = dict(base)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _override(data: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {text}: must be key=value, e.g. --set sets.base.keep.motion.min=2.0")
    *parents, last = key.split(".")
    place = data
    for parent in parents:
        inner = place.get(parent)
        place[parent] = dict(inner) if isinstance(inner, dict) else {}  # a copy: recipes may share what they extend
        place = place[parent]
    try:
        meant = yaml.load(value, _Loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {text}: the value is not YAML: {error}") from None
    if meant is None and last in place:
        del place[last]  # as in a recipe that extends another; a key that is not there is checked like any other
    else:
        place[last] = meant


def suggest(word: str, known: Any) -> str:
    """`, did you mean 'x'?`, or nothing."""
    close = difflib.get_close_matches(word, [str(key) for key in known], n=1)
    return f", did you mean '{close[0]}'?" if close else ""


def _only_keys(data: dict[str, Any], allowed: set[str], where: str) -> None:
    for key in data:
        if key not in allowed:
            raise RecipeError(f"{where}: {key}: unknown key{suggest(str(key), allowed)}")
