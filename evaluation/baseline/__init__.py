"""Figures of other tools beside ours, component by component: NVSim's result text, hwcomponents where it is installed."""
