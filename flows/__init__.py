"""The Prefect flows, which say what runs after what, and in ``cli`` the console command."""
