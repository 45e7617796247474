"""`reskd demo`: the whole pipeline on generated videos."""
