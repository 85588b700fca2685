"""Models that a public generator makes from the AsyncAPI document."""

import json
import re
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

from tests.e2e.test_schema_typescript import compile_types
from tests.node import node_package
from typelets_ws.schema.asyncapi import asyncapi
from typelets_ws.schema.json_schema import definitions

pytestmark = pytest.mark.timeout(300)  # compilers take seconds of CPU

GENERATE = """
const { TypeScriptGenerator } = require("@asyncapi/modelina");
const { readFileSync } = require("fs");
const generator = new TypeScriptGenerator({
  modelType: "interface", rawPropertyNames: true, enumType: "union",
});
generator.generate(JSON.parse(readFileSync("asyncapi.json"))).then((models) =>
  console.log(JSON.stringify(
    Object.fromEntries(models.map(({ modelName, result }) => [modelName, result])))));
"""
DEFAULT_LIB = re.compile(r"^(?:declare (?:var|function|class) |interface )(\w+)", re.M)


def test_a_generator_makes_a_model_of_every_message(tmp_path: Path) -> None:
    node_package("@asyncapi/modelina")
    document = asyncapi("1.0.0")
    (tmp_path / "asyncapi.json").write_text(json.dumps(document))
    ended = subprocess.run(
        ["node", "-e", GENERATE], cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    models = json.loads(ended.stdout)
    assert set(models) >= set(document["components"]["messages"])
    assert not [name for name in models if name.startswith("Anonymous")]
    for name, described in document["components"]["messages"].items():
        fields = definitions("#/")[name]["properties"]
        assert all(f"'{field}'" in models[name] for field in fields), models[name]
        if "name" in described:
            assert f"'{described['name']}'" in models[name]
    text = "\n".join(f"export {model}" for model in models.values())
    (tmp_path / "models.ts").write_text(text)
    compile_types(tmp_path, "models.ts")


def test_no_type_hides_a_global_of_javascript() -> None:
    known: set[str] = set()
    for library in (node_package("typescript") / "lib").glob("lib.*.d.ts"):
        known |= set(DEFAULT_LIB.findall(library.read_text("utf-8")))
    assert "Error" in known
    assert set(definitions("#/")) & known == set()
    client = (files("typelets_ws") / "client" / "typelets-client.d.ts").read_text(
        "utf-8"
    )
    exported = set(re.findall(r"^export (?:type|class|function) (\w+)", client, re.M))
    assert "TypeletsClient" in exported
    assert exported & known == set()
