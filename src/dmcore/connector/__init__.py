"""The Cloud Connector: receives cycles, keeps shadows and recovery points, gives them back. Never imports appliance."""
