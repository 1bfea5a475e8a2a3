"""Units of systemd, compose files and the Dockerfile: their commands are those that are tested."""

import configparser
import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from fedadapt.cli import main

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"


def understood(words):
    """Let the command line parse a call of ``fedadapt``; it is not run."""
    assert words[0] == "deploy"
    group = main.commands["deploy"]
    parent = click.Context(group, parent=click.Context(main))
    command = group.commands[words[1]]
    with command.make_context(
        words[1], [str(word) for word in words[2:]], parent=parent
    ) as context:
        return context.params


def unit(path):
    parser = configparser.RawConfigParser(strict=False, delimiters="=", comment_prefixes="#")
    parser.optionxform = str
    parser.read_string(path.read_text().replace("\\\n", " "))
    return parser


@pytest.mark.parametrize("name", ["server", "client"])
def test_units_restart_whatever_the_end_and_run_what_the_command_line_knows(made, name):
    parsed = unit(made.folder / "systemd" / f"fedadapt-{name}.service")
    service = parsed["Service"]
    assert service["Restart"] == "always"
    assert int(service["RestartSec"]) >= 15
    assert parsed["Unit"]["StartLimitIntervalSec"] == "0"
    assert "time-sync.target" in parsed["Unit"]["After"]
    assert service["UMask"] == "0077"
    assert service["ProtectSystem"] == "strict"
    assert service["NoNewPrivileges"] == "yes"
    command = shlex.split(service["ExecStart"])
    assert Path(command[0]).name == "fedadapt"
    assert command[2] == name
    given = understood(command[1:])
    if name == "server":
        assert str(given["folder"]) == service["ReadWritePaths"] == str(made.folder)
    else:
        assert str(given["home"]) == service["ReadWritePaths"]


def test_the_compose_file_of_a_deployment_serves_its_folder(made):
    [server] = yaml.safe_load((made.folder / "compose.yaml").read_text())["services"].values()
    assert understood(server["command"])["folder"] == Path("/deployment")
    assert server["volumes"] == [f"{made.folder}:/deployment"]
    assert server["ports"] == [f"{made.port}:{made.port}"]
    assert server["restart"] == "always"


@pytest.fixture(scope="module")
def lab():
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())


def test_the_lab_has_a_server_and_three_clients_by_known_commands(lab):
    services = lab["services"]
    assert sorted(services) == ["client-1", "client-2", "client-3", "server", "setup"]
    for name, service in services.items():
        if name == "setup":
            continue
        given = understood(service["command"])
        assert service["restart"] == "always"
        if name != "server":
            assert given["bundle"] == Path(f"/bundles/{name}.tar")
            assert given["images"] == Path(f"/pictures/{name}")
            assert given["wait"]


def test_the_lab_is_set_up_by_known_commands(lab):
    [script] = lab["services"]["setup"]["command"]
    calls = re.findall(r"fedadapt (deploy .*)", script)
    assert [call.split()[1] for call in calls] == ["init", "pictures"]
    for call in calls:
        understood(shlex.split(call))
    comment = (DOCKER / "compose.yaml").read_text().partition("\nname:")[0]
    [run] = re.findall(r"fedadapt (deploy run .*)", comment)
    assert str(understood(shlex.split(run))["folder"]) == "/deployment/lab"


def test_every_volume_that_is_mounted_is_declared_and_owned_by_the_user_of_the_image(lab):
    dockerfile = (DOCKER / "Dockerfile").read_text()
    owned = re.search(r"install -d .* fedadapt -g fedadapt (.*)", dockerfile)[1].split()
    for service in lab["services"].values():
        for volume in service["volumes"]:
            name, place, *_ = volume.split(":")
            assert name in lab["volumes"]
            assert place in owned
    for name, service in lab["services"].items():
        if name.startswith("client"):
            assert all(v.endswith(":ro") or v.startswith("state") for v in service["volumes"])


KNOWN = {"ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "ENTRYPOINT", "CMD", "VOLUME",
         "EXPOSE"}  # fmt: skip


def test_the_images_are_built_for_both_sides_and_do_not_run_as_root():
    text = (DOCKER / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert {line.split()[0] for line in lines} <= KNOWN
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", text, re.MULTILINE)
    assert [stage for _, stage in stages] == ["base", "client", "server"]
    for stage in re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]:
        users = re.findall(r"^USER (\S+)", stage, re.MULTILINE)
        assert users[-1:] in ([], ["fedadapt"])
    for source in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        for name in source.split():
            assert (ROOT / name).exists(), name
            ignored = (ROOT / ".dockerignore").read_text().split()
            assert f"!{name}" in ignored
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    used = {service["build"]["target"] for service in services.values() if "build" in service}
    assert used == {"client", "server"}
