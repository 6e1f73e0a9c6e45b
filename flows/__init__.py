"""What runs after what: the Prefect flows and the console command."""
