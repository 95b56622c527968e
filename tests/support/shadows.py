"""Shadows: functions, operators and aggregates in `public` that take the place of the catalog's.

PostgreSQL searches pg_catalog first. But an exact match further down the search path wins over a
polymorphic function, or over one that needs a cast. Anybody who may create in `public` can place
such a match, and it runs as the caller.

The shadows are made from the catalog, and each raises an error with its name. There is one for
every signature that a function of the catalog takes by a cast or as a polymorphic one, with the
types of payproc's statements. The catalog's own signatures need none, because the catalog wins.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import payproc
from tests.support.postgres import Sql

SHADOW_CALLED = "a shadow was called: "
"""The start of the message that every shadow raises."""

_TYPES = (
    *("text", "name", '"char"', "integer", "bigint", "numeric", "boolean", "oid", "regclass", "regnamespace", "json"),
    *("timestamp with time zone", "interval", "text[]", "integer[]", "bigint[]", "timestamp with time zone[]"),
    *("name[]", "oid[]", "boolean[]", "numeric[]", '"char"[]', "int2vector"),
)
"""The types of payproc's columns, parameters and variables, and of the catalog's columns."""

_ARRAYS = ("anyarray", "anycompatiblearray")
_ELEMENTS = ("anyelement", "anynonarray", "anyenum", "anycompatible", "anycompatiblenonarray")
_MOST_VARIADIC = 2


class _Signature(NamedTuple):
    name: str
    arguments: tuple[str, ...]


class _Catalog:
    """Types and implicit casts in the catalog."""

    def __init__(self, sql: Sql) -> None:
        enums = [
            name
            for (name,) in sql.rows(
                "SELECT format_type(oid, NULL) FROM pg_type"
                " WHERE typtype = 'e' AND typnamespace = to_regnamespace('payproc') ORDER BY 1"
            )
        ]
        self.enums = frozenset(enums)
        self.types = (*_TYPES, *enums, *(f"{name}[]" for name in enums))
        casts = sql.rows(
            "SELECT format_type(castsource, NULL), format_type(casttarget, NULL) FROM pg_cast WHERE castcontext = 'i'"
        )
        self._casts = frozenset(casts)

    def accepted(self, declared: str) -> list[str]:
        """Return the types that an argument of this declared type takes."""
        return [each for each in self.types if self._takes(declared, each)]

    def _takes(self, declared: str, given: str) -> bool:
        if declared in _ARRAYS:
            return given.endswith("[]")
        if declared == "anyenum":
            return given in self.enums
        if declared in ("anynonarray", "anycompatiblenonarray"):
            return not given.endswith("[]")
        if declared.endswith("[]") and given.endswith("[]"):
            return self._takes(declared.removesuffix("[]"), given.removesuffix("[]"))
        return declared in ('"any"', *_ELEMENTS) or given == declared or (given, declared) in self._casts


def plant_shadows(sql: Sql) -> None:
    """Shadow all that payproc's statements could call. Hides `public` from this connection."""
    sql.rows("SET search_path = ''")
    catalog = _Catalog(sql)
    shadows = [*_operators(sql, catalog), *_functions(sql, catalog, _names_in_source())]
    sql.rows("SET check_function_bodies = off;\n" + "".join(shadows))


def _names_in_source() -> list[str]:
    """Return each word before a parenthesis in payproc's source: some are functions of SQL."""
    folder = Path(payproc.__file__).parent
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".py", ".sql")]
    return sorted({word for path in files for word in re.findall(r"\b([a-z]\w*)\(", path.read_text("utf-8"))})


def _operators(sql: Sql, catalog: _Catalog) -> Iterator[str]:
    rows = sql.rows(
        "SELECT oprname, CASE WHEN oprleft <> 0 THEN format_type(oprleft, NULL) END,"
        " format_type(oprright, NULL), format_type(oprresult, NULL) FROM pg_operator"
        " WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprcode <> 0 ORDER BY pg_operator.oid"
    )
    declared = [(name, tuple(each for each in (left, right) if each), result) for name, left, right, result in rows]
    for number, (signature, result) in enumerate(_signatures(catalog, declared)):
        function = f"public.shadow_operator_{number}"
        yield _function(signature, function, signature.arguments, result)
        sides = ("LEFTARG", "RIGHTARG")[-len(signature.arguments) :]
        arguments = ", ".join(f"{side} = {each}" for side, each in zip(sides, signature.arguments, strict=True))
        yield f"CREATE OPERATOR public.{signature.name} (FUNCTION = {function}, {arguments});\n"


def _functions(sql: Sql, catalog: _Catalog, names: Sequence[str]) -> Iterator[str]:
    rows = sql.rows(
        "SELECT proname, array(SELECT format_type(each, NULL) FROM unnest(proargtypes) WITH ORDINALITY AS"
        " argument (each, place) ORDER BY place), provariadic <> 0, format_type(prorettype, NULL),"
        " proretset, prokind IN ('a', 'w') FROM pg_proc"
        " WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind <> 'p' AND proname = ANY (%s)"
        " AND oid NOT IN (SELECT aggfnoid FROM pg_aggregate WHERE aggkind <> 'n') ORDER BY oid",
        list(names),
    )
    for is_set, is_aggregate in product((False, True), repeat=2):
        declared = [
            (name, arguments, result)
            for name, given, is_variadic, result, returns_set, aggregates in rows
            if (returns_set, aggregates) == (is_set, is_aggregate)
            for arguments in _spread(tuple(given), is_variadic)
        ]
        for number, (signature, result) in enumerate(_signatures(catalog, declared)):
            name = f'public."{signature.name}"'
            if not is_aggregate:
                yield _function(signature, name, signature.arguments, f"{'SETOF ' * is_set}{result}")
                continue
            step, end = f"public.shadow_step_{number}", f"public.shadow_end_{number}"
            yield _function(signature, step, ("text", *signature.arguments), "text")
            yield _function(signature, end, ("text",), result)
            yield (
                f"CREATE AGGREGATE {name} ({', '.join(signature.arguments)})"
                f" (SFUNC = {step}, STYPE = text, FINALFUNC = {end});\n"
            )


def _spread(arguments: tuple[str, ...], is_variadic: bool) -> Iterator[tuple[str, ...]]:
    """Yield the arguments as declared; for a VARIADIC one, also the arguments of a call."""
    yield arguments
    if is_variadic:
        *first, last = arguments
        element = {"anyarray": "anyelement", "anycompatiblearray": "anycompatible"}.get(last, last.removesuffix("[]"))
        for count in range(1, _MOST_VARIADIC + 1):
            yield (*first, *[element] * count)


def _signatures(
    catalog: _Catalog, declared: Sequence[tuple[str, tuple[str, ...], str]]
) -> list[tuple[_Signature, str]]:
    """Return the signatures to shadow, each with the type of its result."""
    own = {_Signature(name, arguments) for name, arguments, _ in declared}
    shadows: dict[_Signature, str] = {}
    for name, arguments, result in declared:
        for given in product(*map(catalog.accepted, arguments)):
            if (signature := _Signature(name, given)) not in own:
                shadows.setdefault(signature, _result(result, arguments, given))
    return list(shadows.items())


def _result(result: str, declared: Sequence[str], given: Sequence[str]) -> str:
    """Return the type of a result: of a polymorphic one, that of the arguments."""
    if result not in (*_ARRAYS, *_ELEMENTS):
        return result
    element = next(
        each.removesuffix("[]") if kind in _ARRAYS else each
        for kind, each in zip(declared, given, strict=True)
        if kind in (*_ARRAYS, *_ELEMENTS)
    )
    return f"{element}[]" if result in _ARRAYS and not element.endswith("[]") else element


def _function(signature: _Signature, name: str, arguments: Sequence[str], result: str) -> str:
    message = f"{SHADOW_CALLED}{signature.name}({', '.join(signature.arguments)})".replace("'", "''")
    return (
        f"CREATE FUNCTION {name}({', '.join(arguments)}) RETURNS {result} LANGUAGE plpgsql"
        f" AS $$BEGIN RAISE EXCEPTION USING MESSAGE = '{message}'; END$$;\n"
    )
