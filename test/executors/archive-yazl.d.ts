/** The part of yazl that the archive tests use; the package ships no types. */
declare module 'yazl' {
  interface Options {
    mtime?: Date;
    mode?: number;
    compress?: boolean;
    forceZip64Format?: boolean;
  }
  class ZipFile {
    outputStream: NodeJS.ReadableStream;
    addBuffer(buffer: Buffer, path: string, options?: Options): void;
    end(options?: { forceZip64Format?: boolean }): void;
  }
  const yazl: { ZipFile: typeof ZipFile };
  export default yazl;
}
