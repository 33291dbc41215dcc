"""sas-imc: compiler and ISA toolchain for a digital in-memory-computing accelerator of STT-assisted-SOT MRAM."""

__all__ = ["__version__"]

__version__ = "0.1.0"
