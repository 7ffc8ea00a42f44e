"""Plugin-based compression SDK for image generators."""
