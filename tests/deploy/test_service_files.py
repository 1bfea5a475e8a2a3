"""Units of systemd, compose files and the Dockerfile: their commands are those that are tested."""

import configparser
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest
import yaml
from dockerfile import installed
from packaging.requirements import Requirement

from fedadapt.cli import main
from fedadapt.flower.real_clients.device_executor import FLOWER_VERSIONS
from fedadapt.simulations.check import NEEDED

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


def test_the_server_of_the_lab_is_looked_at_on_the_port_that_it_listens_on(lab):
    server = lab["services"]["server"]
    port = int(server["ports"][0].partition(":")[0])
    program, option, code = server["healthcheck"]["test"][1:]
    assert (program, option) == ("python", "-c")
    compile(code, "healthcheck", "exec")
    assert f"('localhost', {port})" in code
    [setup] = lab["services"]["setup"]["command"]
    [init] = re.findall(r"fedadapt (deploy init .*)", setup)
    given = understood(shlex.split(init))
    assert given["port"] == port
    assert given["hosts"] == ("server",)  # the name of the service, by which clients find it
    assert given["clients"] == sum(name.startswith("client") for name in lab["services"])


PAGE = (ROOT / "docs" / "deployment.md").read_text("utf-8")


def shell_lines():
    """The lines of the page's shell blocks; those that go on are one."""
    for block in re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        yield from block.replace("\\\n", " ").splitlines()


def test_every_command_of_the_page_is_understood_however_it_is_called():
    """By its path, by another user, in a container."""
    calls = [
        call for line in shell_lines()
        for call in re.findall(r"(?:^|[ /])fedadapt(?:-client)? (deploy [^|&;#]*)", line)
    ]  # fmt: skip
    assert len(calls) > 9
    assert {call.split()[1] for call in calls} >= {"init", "server", "client", "run", "lab"}
    for call in calls:
        understood(shlex.split(call))


def test_paths_of_the_page_are_those_of_the_units(made):
    """Where the programs are installed, and where a client's bundle lies."""
    client = unit(made.folder / "systemd" / "fedadapt-client.service")["Service"]
    program, *words = shlex.split(client["ExecStart"])
    assert program == "/opt/fedadapt/bin/fedadapt"
    assert "python3 -m venv /opt/fedadapt" in PAGE
    assert f"0400 client-1.tar {understood(words)['bundle']}" in PAGE
    for name in re.findall(r"sudo cp (?:/srv/federation/systemd/)?(\S+) /etc/systemd/system", PAGE):
        assert (made.folder / "systemd" / name).is_file()
        assert f"systemctl enable --now {name.removesuffix('.service')}" in PAGE
    for user in re.findall(r"useradd --system --create-home (\w+)", PAGE):
        assert client["User"] == user


def test_images_of_the_page_are_built_by_the_dockerfile(lab):
    stages = re.findall(r"^FROM \S+ AS (\S+)$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    built = re.findall(r"--target (\S+) .*-t (\S+) ", " ".join(shell_lines()))
    assert built
    for stage, image in built:
        assert stage in stages
        assert image == f"fedadapt-{stage}"
    assert {s["image"] for s in lab["services"].values()} == {"fedadapt-client", "fedadapt-server"}


def test_images_have_what_their_side_needs_and_a_flower_that_was_tried():
    """Versions are those of the package itself; the server's image can write a run's tables."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    every = [*extras["simulation"], *extras["privacy"], *project["dependencies"]]
    named = {r.name: r.specifier for r in map(Requirement, every)}
    for stage in ("client", "server"):
        packages = {r.name: r.specifier for r in installed(stage)}
        assert {"torch", "torchvision", "flwr"} <= packages.keys()
        for name, specifier in packages.items():
            if name != "flwr":
                assert specifier == named[name], name
        tried = [f"{minor}.0" for minor in FLOWER_VERSIONS]
        assert all(version in packages["flwr"] for version in tried)
        after = [*map(int, FLOWER_VERSIONS[-1].split("."))]
        assert f"{after[0]}.{after[1] + 1}.0" not in packages["flwr"]
    assert NEEDED.keys() <= {r.name for r in installed("server")}
    assert "dp-accounting" in {r.name for r in installed("client")}


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
