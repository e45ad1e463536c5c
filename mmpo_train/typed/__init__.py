"""What a person types: the programs by name, commands as they work here, options in a file, and plug-ins.

`programs.py` needs the standard library only, for `mmpo --help` and for a doctor on a machine without packages.
"""
