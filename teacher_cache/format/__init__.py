"""The store on disk: names, shards, records, identity; pure but for reading records."""
