import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.security.Key;
import java.security.KeyStore;
import java.security.MessageDigest;
import java.security.cert.Certificate;
import java.util.Collections;
import java.util.HexFormat;

/**
 * Opens a store as a Java program does, says what is in it, and writes the same entries to another:
 * java Copy.java IN OUT TYPE. Passwords are in the environment: STORE, and KEY for the keys.
 *
 * keytool cannot stand in for it: it ignores the password of a key in PKCS12.
 */
public class Copy {
    public static void main(String[] arguments) throws Exception {
        char[] password = System.getenv("STORE").toCharArray();
        char[] keyPassword = System.getenv("KEY").toCharArray();
        KeyStore store = KeyStore.getInstance(arguments[2]);
        try (FileInputStream in = new FileInputStream(arguments[0])) {
            store.load(in, password);
        }
        KeyStore copy = KeyStore.getInstance(arguments[2]);
        copy.load(null, null);
        for (String alias : Collections.list(store.aliases())) {
            if (store.isCertificateEntry(alias)) {
                System.out.println("trusted " + alias + " " + hash(store.getCertificate(alias).getEncoded()));
                copy.setCertificateEntry(alias, store.getCertificate(alias));
                continue;
            }
            Key key = store.getKey(alias, keyPassword);
            Certificate[] chain = store.getCertificateChain(alias);
            System.out.println("key " + alias + " " + chain.length + " " + hash(key.getEncoded()));
            copy.setKeyEntry(alias, key, keyPassword, chain);
        }
        try (FileOutputStream out = new FileOutputStream(arguments[1])) {
            copy.store(out, password);
        }
    }

    private static String hash(byte[] data) throws Exception {
        return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(data));
    }
}
