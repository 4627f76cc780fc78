"""Tools: Python functions an agent may call."""

from __future__ import annotations

import ast
from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter, HTTPException
from starlette.responses import Response

from agent_server.bodies import Body, Limit
from agent_server.services import Acting, Serving, all_rows, answer, not_found, one_row, own
from agent_server.tables import INSERT, new_id, now, tools

router = APIRouter(prefix="/tools")
_JSON_TYPES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "list": "array",
    "dict": "object",
}


class ToolBody(Body):
    """Body of PUT /tools: the function's source says the rest."""

    source_code: str
    description: str | None = None


@router.put("")
async def upsert_tool(body: ToolBody, services: Serving, actor: Acting) -> Response:
    """Make a tool, or replace the organization's tool of the same function name."""
    schema = json_schema(body.source_code)
    values = {
        "name": schema["name"],
        "description": body.description or schema["description"],
        "source_code": body.source_code,
        "json_schema": schema,
        "tool_type": "custom",
    }
    async with services.engine.begin() as connection:
        insert: Any = INSERT[connection.dialect.name]
        statement = insert(tools).values(id=new_id("tool"), organization_id=actor.organization_id, **values)
        statement = statement.on_conflict_do_update(
            index_elements=["organization_id", "name"], set_={**values, "updated_at": now()}
        )
        row = (await connection.execute(statement.returning(*tools.c))).mappings().one()
    services.agents_changed()  # an agent's state holds its tools
    return answer(dict(row))


@router.get("")
async def list_tools(
    services: Serving, actor: Acting, limit: Limit = 50, name: str | None = None
) -> Response:
    """The organization's tools."""
    query = sa.select(tools).where(tools.c.organization_id == actor.organization_id).limit(limit)
    query = query if name is None else query.where(tools.c.name == name)
    async with services.read_engine.connect() as connection:
        return answer(await all_rows(connection, query.order_by(tools.c.created_at)))


@router.get("/{tool_id}")
async def get_tool(tool_id: str, services: Serving, actor: Acting) -> Response:
    """One tool."""
    async with services.engine.connect() as connection:
        query = sa.select(tools).where(own(tools, tool_id, actor))
        return answer(await one_row(connection, query, "Tool", tool_id))


@router.delete("/{tool_id}")
async def delete_tool(tool_id: str, services: Serving, actor: Acting) -> Response:
    """Delete a tool; agents lose it."""
    async with services.engine.begin() as connection:
        done = await connection.execute(sa.delete(tools).where(own(tools, tool_id, actor)))
    if not done.rowcount:
        raise not_found("Tool", tool_id)
    services.agents_changed()
    return answer({"message": f"Tool id={tool_id} successfully deleted"})


def json_schema(source: str) -> dict[str, Any]:
    """The JSON schema of the first function in a source; 400 when there is none."""
    try:
        found = next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))
    except (SyntaxError, ValueError, StopIteration, RecursionError, MemoryError):
        raise HTTPException(400, "source_code holds no Python function") from None
    arguments = found.args.args
    required = arguments[: len(arguments) - len(found.args.defaults)]
    for named, default in zip(found.args.kwonlyargs, found.args.kw_defaults, strict=True):
        arguments = [*arguments, named]
        required = required if default is not None else [*required, named]
    properties = {one.arg: {"type": _json_type(one.annotation)} for one in arguments}
    return {
        "name": found.name,
        "description": (ast.get_docstring(found) or found.name).split("\n")[0],
        "parameters": {"type": "object", "properties": properties, "required": [one.arg for one in required]},
    }


def _json_type(annotation: ast.expr | None) -> str:
    """`list[str]` is an array; what is not known, or not said, is text."""
    if isinstance(annotation, ast.Subscript):
        annotation = annotation.value
    return _JSON_TYPES.get(annotation.id, "string") if isinstance(annotation, ast.Name) else "string"
