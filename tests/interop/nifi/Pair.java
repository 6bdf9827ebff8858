import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.net.InetAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.util.Properties;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLServerSocket;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

/**
 * One of two Java programs that meet, each with a certificate, and exchange a line. All they know is in a file with
 * the seven nifi.security.* properties that name the stores, their types and their passwords.
 *
 *   java Pair.java serve PROPERTIES ADDRESS PORT       0 is any port; says which, and whom it met
 *   java Pair.java call PROPERTIES HOST PORT LINE      prints the answer; 1 and the reason when TLS refuses
 */
class Pair {
    public static void main(String[] arguments) throws Exception {
        SSLContext tls = context(Path.of(arguments[1]));
        if (arguments[0].equals("serve")) {
            serve(tls, InetAddress.getByName(arguments[2]), Integer.parseInt(arguments[3]));
        } else {
            call(tls, arguments[2], Integer.parseInt(arguments[3]), arguments[4]);
        }
    }

    private static SSLContext context(Path file) throws Exception {
        Properties given = new Properties();
        try (InputStream stream = Files.newInputStream(file)) {
            given.load(stream);
        }
        KeyManagerFactory keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        String keyPassword = given.getProperty("nifi.security.keyPasswd", "");
        String storePassword = given.getProperty("nifi.security.keystorePasswd");
        keys.init(store(given, "keystore"), (keyPassword.isEmpty() ? storePassword : keyPassword).toCharArray());
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store(given, "truststore"));
        SSLContext tls = SSLContext.getInstance("TLS");
        tls.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
        return tls;
    }

    private static KeyStore store(Properties given, String name) throws Exception {
        // "JKS" by its name opens PKCS #12 too, and the other way round: the type that was written has to be the type.
        KeyStore store = KeyStore.getInstance(given.getProperty("nifi.security." + name + "Type"));
        Path path = Path.of(given.getProperty("nifi.security." + name));
        boolean jks = store.getType().equalsIgnoreCase("jks");
        try (InputStream stream = new FileInputStream(path.toFile())) {
            if (jks != (stream.read() == 0xFE)) {
                throw new IOException(path + " is not of type " + store.getType());
            }
        }
        try (InputStream stream = new FileInputStream(path.toFile())) {
            store.load(stream, given.getProperty("nifi.security." + name + "Passwd").toCharArray());
        }
        return store;
    }

    private static void serve(SSLContext tls, InetAddress address, int port) throws IOException {
        try (SSLServerSocket server = (SSLServerSocket) tls.getServerSocketFactory()
                .createServerSocket(port, 50, address)) {
            server.setNeedClientAuth(true);
            System.out.println("serving " + server.getLocalPort());
            while (true) {
                try (SSLSocket socket = (SSLSocket) server.accept()) {
                    String line = read(socket);
                    String client = socket.getSession().getPeerPrincipal().getName();
                    write(socket, "hello " + client + ", you said " + line);
                    System.out.println("met " + client);
                } catch (IOException refused) {
                    System.out.println("refused: " + refused.getMessage());
                }
            }
        }
    }

    private static void call(SSLContext tls, String host, int port, String line) throws IOException {
        try (SSLSocket socket = (SSLSocket) tls.getSocketFactory().createSocket(host, port)) {
            SSLParameters parameters = socket.getSSLParameters();
            parameters.setEndpointIdentificationAlgorithm("HTTPS");
            socket.setSSLParameters(parameters);
            write(socket, line);
            String answer = read(socket);
            if (answer == null) {
                throw new IOException("it hung up");
            }
            System.out.println(answer);
        }
    }

    private static String read(SSLSocket socket) throws IOException {
        return new BufferedReader(new InputStreamReader(socket.getInputStream(), StandardCharsets.UTF_8)).readLine();
    }

    private static void write(SSLSocket socket, String line) throws IOException {
        OutputStream stream = socket.getOutputStream();
        stream.write((line + "\n").getBytes(StandardCharsets.UTF_8));
        stream.flush();
    }
}
