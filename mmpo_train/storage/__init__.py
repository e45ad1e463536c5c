"""Folders and files that appear whole or not at all, here and on every node.

`manifest.py` writes a folder next to its target, with the SHA-256 sums of its files, and renames it. `mirror.py` keeps
this machine's copies of an object store. `object_store.py` accesses S3 and Google Cloud Storage. The doors are
`manifest.write_folder`, `whole_file.write_whole` and `mirror.publish`, `fetch` and `need`.
"""
