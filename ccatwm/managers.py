"""`python -m ccatwm.managers`, which is `ccat_workflow_manager`. Touches: nothing itself."""

from ccatwm.starting import manage

if __name__ == "__main__":
    manage()
