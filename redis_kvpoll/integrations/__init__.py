"""Where the table is put into other programs, by their own plugin interfaces."""
