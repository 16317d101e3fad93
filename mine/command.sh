#!/bin/sh
# run 1 by hand
(cd /var/tmp/inhand/mine/scratch && exec /usr/bin/env \
    -i \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/var/tmp/inhand/mine/scratch/home \
    MPLCONFIGDIR=/var/tmp/inhand/mine/scratch/cache \
    OMP_NUM_THREADS=1 \
    SOURCE_DATE_EPOCH=1772409900 \
    TMPDIR=/var/tmp/inhand/mine/scratch/tmp \
    WORKFLOW_ATTEMPT=1 \
    WORKFLOW_CPUS=1 \
    WORKFLOW_INPUT_DIR=/var/tmp/inhand/mine/input \
    WORKFLOW_LOG_DIR=/var/tmp/inhand/mine/logs \
    WORKFLOW_MANIFEST=/var/tmp/inhand/mine/config/manifest.json \
    WORKFLOW_MEMORY_GB=2 \
    WORKFLOW_OUTPUT_DIR=/var/tmp/inhand/mine/output \
    WORKFLOW_RUN_ID=1 \
    WORKFLOW_SCRATCH_DIR=/var/tmp/inhand/mine/scratch \
    WORKFLOW_STEP=calibrate \
    WORKFLOW_SUB_GROUP=executed_obs_unit=1 \
    WORKFLOW_WORKSPACE_DIR=/var/tmp/inhand/mine/workspace \
    XDG_CACHE_HOME=/var/tmp/inhand/mine/scratch/cache \
    /bin/sh \
    /var/tmp/bt-inhand/test_somebody_without_any_righ0/world/program.sh)
