"""What several plugins need of one library; each module imports its library when it is used."""
