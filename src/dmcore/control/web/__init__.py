"""HTTP: the application, what every request passes, long polls, routes."""
