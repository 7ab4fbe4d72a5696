"""Asks cloud-init's own code, from the package unpacked in a root, what it would do there.

    python3 ask_cloud_init.py ROOT

One answer a line. The machine is not touched: modules that would act meet an object
that refuses everything. A netboot's klibc configuration of eth0 is pretended.
"""
import configparser
import inspect
import logging
import os
import sys
import tempfile

root = sys.argv[1]
sys.path.insert(0, f"{root}/usr/lib/python3/dist-packages")

# What systemd would put into the environment of its units.
for unit in ("cloud-init-main.service", "cloud-init.service"):
    drop_in = configparser.ConfigParser()
    if drop_in.read(f"{root}/etc/systemd/system/{unit}.d/rootstock.conf"):
        name, value = drop_in["Service"]["Environment"].split("=", 1)
        os.environ[name] = root + value

from cloudinit import helpers, stages, util  # noqa: E402
from cloudinit.config import cc_set_hostname, cc_update_etc_hosts  # noqa: E402
from cloudinit.sources import DataSourceNoCloud  # noqa: E402

logging.disable(logging.CRITICAL)
base = util.read_conf_with_confd(f"{root}/etc/cloud/cloud.cfg")
scratch = tempfile.TemporaryDirectory()
seeds = helpers.Paths({"cloud_dir": f"{root}/var/lib/cloud", "run_dir": scratch.name})

# The data source as the first stage has it: its configuration without user-data.
first = helpers.ConfigMerger(base_cfg=base).cfg
source = DataSourceNoCloud.DataSourceNoCloud(first, None, seeds)
source._get_devices = lambda label: []  # no partition of this machine
try:
    found = source._get_data()
except Exception as error:
    found = False
    print("seed fails:", type(error).__name__)
if found:
    print("seed NoCloud")

# What the second stage writes for all later ones.
paths = helpers.Paths({"cloud_dir": scratch.name, "run_dir": scratch.name})
instance = os.path.join(scratch.name, "instance")
os.makedirs(instance)
with open(os.path.join(instance, "cloud-config.txt"), "w") as file:
    file.write(util.decode_binary(source.userdata_raw or "") if found else "")
config = helpers.ConfigMerger(paths=paths, base_cfg=base).cfg

stages.cmdline.read_kernel_cmdline_config = lambda: None
stages.cmdline.read_initramfs_config = lambda: {"version": 1, "config": [{"type": "physical", "name": "eth0"}]}
init = stages.Init(ds_deps=[])
init._cfg = config
init._paths = seeds
init.datasource = source
network, why = init._find_networking_config()
print("network", "disabled" if network is None else getattr(why, "value", why))


class Refuses:
    """Whoever asks it for anything wants to act, but for the name of a file."""

    hosts_fn = "/nonexistent"

    @property
    def distro(self):
        return self

    def __getattr__(self, name):
        raise PermissionError(name)


for module, what in ((cc_set_hostname, "set_hostname"), (cc_update_etc_hosts, "update_etc_hosts")):
    log = [logging.getLogger(what)] if "log" in inspect.signature(module.handle).parameters else []
    try:
        module.handle(what, dict(config), Refuses(), *log, [])
        print(what, "passes")
    except PermissionError:
        print(what, "acts")

print("ssh_deletekeys", util.get_cfg_option_bool(config, "ssh_deletekeys", True))
print("ssh_genkeytypes", config.get("ssh_genkeytypes"))
print("growpart", config.get("growpart", {}).get("mode", "auto"))
print("resize_rootfs", config.get("resize_rootfs", True))
print("swap", config.get("swap"))
print("disable_root", config.get("disable_root"))
for user in config.get("users", []):
    if isinstance(user, dict):
        print("user", user["name"])
