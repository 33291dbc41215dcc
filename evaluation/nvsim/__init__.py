"""NVSim and PIMA-SIM files (``.cfg``, ``.cell``, ``.pim``) become machine and technology descriptions."""
