"""``fedadapt deploy``: a federation of real machines. Nothing heavy is loaded for ``--help``."""

from fedadapt.deploy.commands import device as device
from fedadapt.deploy.commands import lab as lab
from fedadapt.deploy.commands import server as server
from fedadapt.deploy.commands.group import deploy as deploy
