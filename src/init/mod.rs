//! PID 1 of the appliance: mounts, modules, watchdog, one supervised child.
