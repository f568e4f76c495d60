"""What a run tells: the document for programs, the progress and the summary for people."""
