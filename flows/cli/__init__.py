"""The console command: one file a command; what they share is in :mod:`common`."""
