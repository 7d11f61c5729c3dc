//! The part of `/sys` and `/dev` a program looks at to find the devices.

use crate::backend::Backend;
use dpaa2_defs::mc::object::ObjectType;
use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Beginnings of paths that lead into the tree.
const REDIRECTED: [&str; 3] = ["/sys/bus/fsl-mc", "/sys/module/vfio", "/dev/vfio"];

/// A directory tree, made for this process in the directory for temporary files.
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Makes the tree. A container's IOMMU group has the container's number, which is never 0: DPDK takes 0 for "open".
    pub fn new(backend: &dyn Backend) -> io::Result<Self> {
        let root = std::env::temp_dir().join(format!("dpaa2-shim-{}", std::process::id()));
        // Of a program this process was before, or one that was killed.
        let _ = fs::remove_dir_all(&root);
        let directory = |path: &str| {
            let path = root.join(path);
            fs::create_dir_all(&path).map(|()| path)
        };
        let devices = directory("sys/bus/fsl-mc/devices")?;
        directory("sys/bus/fsl-mc/drivers/vfio-fsl-mc")?;
        for module in ["vfio/parameters", "vfio_iommu_type1/parameters", "vfio_fsl_mc"] {
            directory(&format!("sys/module/{module}"))?;
        }
        let dev = directory("dev/vfio")?;
        fs::write(dev.join("vfio"), "")?;
        for (container, objects) in backend.containers() {
            let name = ObjectType::DPRC.with_id(container).to_string();
            let own = devices.join(&name);
            fs::create_dir(&own)?;
            describe(&own, container)?;
            for object in objects {
                let path = own.join(object.id.to_string());
                fs::create_dir(&path)?;
                describe(&path, container)?;
                symlink(format!("{name}/{}", object.id), devices.join(object.id.to_string()))?;
            }
            fs::write(dev.join(container.to_string()), "")?;
        }
        Ok(Self { root })
    }

    /// Where a path leads: into the tree, or where it says.
    pub fn redirect<'a>(&self, path: &'a CStr) -> Cow<'a, CStr> {
        let bytes = path.to_bytes();
        if !REDIRECTED.iter().any(|prefix| bytes.starts_with(prefix.as_bytes())) {
            return Cow::Borrowed(path);
        }
        let mut redirected = self.root.as_os_str().as_bytes().to_vec();
        redirected.extend_from_slice(bytes);
        Cow::Owned(CString::new(redirected).expect("neither part has a NUL"))
    }

    /// Removes the tree.
    pub fn remove(&self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn describe(path: &Path, group: u32) -> io::Result<()> {
    symlink(format!("../../../../kernel/iommu_groups/{group}"), path.join("iommu_group"))?;
    symlink("../../../../bus/fsl-mc/drivers/vfio-fsl-mc", path.join("driver"))?;
    fs::write(path.join("driver_override"), "vfio-fsl-mc\n")
}
