"""Students on disk: the folder, its writer, its reader, and exports."""
