"""What is counted where adapters meet, before anything is merged."""
