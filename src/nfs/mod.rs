//! NFSv3, MOUNT v3 and portmap v2 over the clients' trees.
