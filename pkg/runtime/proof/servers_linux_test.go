package proof

import (
	_ "embed"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	//go:embed testdata/proof.zone
	zone string
	//go:embed testdata/reverse.zone
	reverseZone string
)

// nameServer serves the zones to this host's resolver, which is that of the boxes.
func (w *internet) nameServer(t *testing.T) {
	w.write(t, "/srv/proof.zone", zone)
	w.write(t, "/srv/reverse.zone", reverseZone)
	w.write(t, "/srv/named.conf", `
options {
	directory "/srv";
	listen-on { any; };
	listen-on-v6 { any; };
	recursion no;
	dnssec-validation no;
	pid-file none;
	session-keyfile none;
};
controls {};
zone "proof.test" { type primary; file "proof.zone"; };
zone "113.0.203.in-addr.arpa" { type primary; file "reverse.zone"; };
`)
	w.serve(t, nameServer4+":53", "/usr/sbin/named", "-g", "-n", "1", "-c", "/srv/named.conf")
}

// webServer serves /srv/www over HTTP and HTTPS. It returns the certificate to trust.
func (w *internet) webServer(t *testing.T) string {
	w.write(t, "/srv/nginx.conf", `
daemon off;
user root;
pid /run/nginx.pid;
error_log stderr;
events {}
http {
	access_log off;
	sendfile on;
	ssl_certificate /srv/cert.pem;
	ssl_certificate_key /srv/key.pem;
	server {
		listen 80;
		listen [::]:80;
		listen 443 ssl;
		listen [::]:443 ssl;
		root /srv/www;
	}
}
`)
	w.run(t, "/usr/bin/openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
		"-keyout", "/srv/key.pem", "-out", "/srv/cert.pem", "-days", "3650", "-subj", "/CN=www.proof.test",
		"-addext", "subjectAltName=DNS:www.proof.test,DNS:apt.proof.test")
	require.NoError(t, os.MkdirAll(w.tree+"/srv/www", 0o755))
	w.serve(t, serverAddr4+":443", "/usr/sbin/nginx", "-c", "/srv/nginx.conf")
	cert, err := os.ReadFile(w.tree + "/srv/cert.pem")
	require.NoError(t, err)
	return string(cert)
}

// content puts so many bytes of noise where the web server finds them, and returns
// their SHA-256 as sha256sum prints it.
func (w *internet) content(t *testing.T, name string, size int64) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(w.tree+"/srv/www", 0o755))
	f, err := os.Create(w.tree + "/srv/www/" + name)
	require.NoError(t, err)
	defer f.Close()
	return noise(t, f, size)
}

// repository puts two packages, of which one needs the other, into a signed
// repository of the web server.
func (w *internet) repository(t *testing.T) {
	require.NoError(t, os.MkdirAll(w.tree+"/srv/www/apt", 0o755))
	w.content(t, "apt/proof-data.bin", 1<<20)
	w.run(t, "/bin/sh", "-ec", `
cd /srv/www/apt
mkdir -p /tmp/data/DEBIAN /tmp/data/usr/share/proof /tmp/app/DEBIAN /tmp/app/usr/bin
mv proof-data.bin /tmp/data/usr/share/proof/data
printf 'Package: proof-data\nVersion: 1.0\nArchitecture: all\nMaintainer: Proof <proof@proof.test>\nDescription: data\n' >/tmp/data/DEBIAN/control
printf 'Package: proof\nVersion: 2.0-1\nArchitecture: all\nDepends: proof-data (>= 1)\nMaintainer: Proof <proof@proof.test>\nDescription: program\n' >/tmp/app/DEBIAN/control
printf '#!/bin/sh\nwc -c </usr/share/proof/data\n' >/tmp/app/usr/bin/proof
chmod 755 /tmp/app/usr/bin/proof
dpkg-deb --build --root-owner-group -Znone /tmp/data . >/dev/null
dpkg-deb --build --root-owner-group -Znone /tmp/app . >/dev/null
apt-ftparchive packages . >Packages
apt-ftparchive -o APT::FTPArchive::Release::Suite=proof release . >Release
mkdir -m 700 /tmp/gpg
gpg --homedir /tmp/gpg --batch --quiet --passphrase '' --quick-generate-key proof@proof.test ed25519 sign never 2>/dev/null
gpg --homedir /tmp/gpg --batch --quiet --clearsign -o InRelease Release
gpg --homedir /tmp/gpg --batch --quiet --export >key.gpg
gpgconf --homedir /tmp/gpg --kill gpg-agent
`)
}
